FROM python:3.11-slim AS build
RUN python -m venv /opt/penstock
COPY requirements/run.txt /src/requirements/run.txt
RUN /opt/penstock/bin/pip install --no-cache-dir --require-hashes -r /src/requirements/run.txt
COPY . /src
RUN /opt/penstock/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python:3.11-slim
# The local engine needs the system's OpenMP.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/penstock /opt/penstock
RUN useradd --system --uid 10001 --home-dir /data penstock && install -d -o penstock -m 700 /data
USER penstock
ENV PATH=/opt/penstock/bin:$PATH PENSTOCK_DATA_DIR=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=20s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
CMD ["penstock", "serve", "--listen", "0.0.0.0:8000"]
