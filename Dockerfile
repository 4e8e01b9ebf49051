# syntax=docker/dockerfile:1
# The service alone: pinned dependencies in a layer of their own, then the program, run as a numeric user.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# The environment that ships, and beside it the build backend, which does not.
RUN python -m venv /opt/journey-consumer && python -m venv /opt/build
COPY requirements/run.lock requirements/build.lock requirements/
RUN /opt/journey-consumer/bin/python -m pip install --no-compile --require-hashes -r requirements/run.lock \
    && /opt/build/bin/python -m pip install --require-hashes -r requirements/build.lock

COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY schemas schemas
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/journey-consumer/bin/python -m pip install --no-compile --no-deps dist/*.whl \
    && /opt/journey-consumer/bin/python -m pip uninstall --yes pip \
    && /opt/journey-consumer/bin/python -m compileall -q -j 0 /opt/journey-consumer/lib

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="journey-consumer" \
      org.opencontainers.image.description="Delivers carpool journeys from a message queue to the Registre de preuve de covoiturage" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/journey-consumer/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/journey-consumer /opt/journey-consumer
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["journey-consumer"]
CMD ["run"]
