# The service and the page of icd_engine. `docker build .` runs on CPUs; for NVIDIA GPUs:
#
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 --tag icd:cuda .
#
# Nothing is written but to /tmp, so the root may be read-only. docs/deploy.md has the commands.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,ui,onnx,heic
RUN python -m venv /opt/icd
RUN /opt/icd/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "${TORCH}"
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY icd_engine ./icd_engine
COPY csrc_triton ./csrc_triton
COPY export ./export
RUN /opt/icd/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /opt/icd /opt/icd
# HOME: Ray, Gradio and caches write there; no name of a hub is asked for
ENV PATH=/opt/icd/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    ICD_HEALTH=http://127.0.0.1:8000/ready
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 7860
# A GPU's programs are compiled before the service is ready
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(os.environ['ICD_HEALTH'], timeout=8)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["icd"]
# Others can reach it, so it needs ICD_TOKEN
CMD ["serve", "--host", "0.0.0.0"]
