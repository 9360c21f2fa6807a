"""What is trained and compared: TCaF, the systems of its tables, closed forms, your own."""
