# One image for every process of the service: `python -m api`, `python -m worker`, `python -m worker.runner`,
# `python -m leasehold.store upgrade`.
FROM python:3.11.14-slim-bookworm
WORKDIR /app
COPY requirements/service.txt requirements/service.txt
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements/service.txt
COPY leasehold leasehold
COPY workflows workflows
COPY activities activities
COPY api api
COPY worker worker
RUN useradd --create-home --uid 1000 leasehold && install -d -o leasehold -g leasehold -m 700 /data
USER 1000
ENV LEASEHOLD_DATA=/data PYTHONUNBUFFERED=1
EXPOSE 8700
CMD ["python", "-m", "api"]
