# The service on CPU, with the ready model `imagenet`: docs/service.md.
#   docker build -t tcaf . && docker run --rm -p 127.0.0.1:8000:8000 -e TCAF_TOKEN=sesame tcaf
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /tcaf
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src

# torch without CUDA, which PyPI does not have for Linux; everything else as tests and results had it.
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
RUN pip install -c constraints.txt '.[video,text,serve]'

# What a first answer would look for: all of it is in the packages, nothing is fetched.
RUN python -c "from tcaf import open_classifier; open_classifier('imagenet').set_classes(['a dog'])"

RUN useradd --create-home --uid 1000 tcaf
USER tcaf
WORKDIR /home/tcaf

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/api/v1/health', timeout=4)"

# The container is the machine; who reaches it is for `docker run -p` to say.
CMD ["tcaf", "serve", "imagenet", "--host", "0.0.0.0", "--port", "8000"]
