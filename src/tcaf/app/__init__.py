"""The page and the service: what answers for clips, over HTTP and in a browser (extra `app`)."""
