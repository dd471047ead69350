# llama.cpp, compiled once for the images that have parts of it; not shipped. LLAMACPP_BUILD: cpu or cuda.
# What it is compiled on: another Debian is another build.
ARG BASE_IMAGE
ARG BUILDER_IMAGE
FROM ${BUILDER_IMAGE}
USER root
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ cmake ninja-build \
 && rm -rf /var/lib/apt/lists/*
ARG LLAMACPP_BUILD
COPY images/llamacpp/source.lock images/llamacpp/backend.lock images/llamacpp/cuda.lock images/llamacpp/compile images/llamacpp/pack /tuneyard/
RUN /tuneyard/compile
RUN /tuneyard/pack
