#!/usr/bin/env bash
# Builds wheel and sdist, installs each in a folder of its own, and runs what came out.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf build/dist build/installed
python -m build --outdir build/dist . >build/packages.log 2>&1 || {
  cat build/packages.log
  exit 1
}
twine check --strict build/dist/*
for package in build/dist/*.whl build/dist/*.tar.gz; do
  folder=$PWD/build/installed/${package##*.}
  pip install --quiet --no-deps --target "$folder" "$package"
  # Away from the source, so that it is not what is imported.
  (
    cd build/installed
    export PYTHONPATH=$folder JAX_PLATFORMS=cpu
    python -c "import poolax; assert poolax.__file__.startswith('$folder'), poolax.__file__"
    python -m poolax --version
    python -m poolax docs theory 4.3 | head -n 1 | grep '^## 4.3 '
    test -e "$folder/poolax/py.typed"
  )
done
