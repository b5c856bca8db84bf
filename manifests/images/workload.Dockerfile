# The suite's own programs: python -m svidproof.workloads.apps.api, and the like.
ARG BASE
FROM ${BASE}
COPY site /opt/svidproof
ENV PYTHONPATH=/opt/svidproof PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["python"]
