#!/bin/sh
# Stands in for nvcc where code is checked and nothing is linked: says its version, and leaves a file with no code wherever
# nvcc would leave a result. What nobody was seen to ask ends with 1, so that a new way of building is noticed.
set -eu

mode=none
output=
folder=
source=
while [ $# -gt 0 ]; do
  case "$1" in
    --version)
      # Four lines: cudarc reads the release in the fourth, cudaforge wherever it stands.
      echo "nvcc: NVIDIA (R) Cuda compiler driver"
      echo "Not NVIDIA's: it compiles nothing"
      echo "cargo xtask cuda check"
      echo "Cuda compilation tools, release 13.0, V13.0.88"
      exit 0
      ;;
    --list-gpu-code)
      echo sm_90
      exit 0
      ;;
    --ptx) mode=ptx ;;
    -c) mode=object ;;
    --lib) mode=library ;;
    --fatbin) mode=fatbin ;;
    -o) output=${2:?no file after -o} && shift ;;
    --output-directory) folder=${2:?no folder after --output-directory} && shift ;;
    *.cu) source=$1 ;;
  esac
  shift
done

case "$mode:$folder:$source:$output" in
  ptx:?*:?*:) : >"$folder/$(basename "$source" .cu).ptx" ;;
  object:*:?*:?* | fatbin:*:?*:?*) : >"$output" ;;
  library:*:*:?*) : >"$output" ;;
  *)
    echo "the stand-in for nvcc does not know what is asked of it; see xtask/src/cuda/nvcc.sh" >&2
    exit 1
    ;;
esac
