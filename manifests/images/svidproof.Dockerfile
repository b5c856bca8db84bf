# svidproof itself, for `svidproof run --in-cluster`; and the suite's own programs, which it starts in pods.
ARG BASE
FROM ${BASE}
COPY site /opt/svidproof
ENV PYTHONPATH=/opt/svidproof PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /tmp
USER 1000:1000
ENTRYPOINT ["python"]
