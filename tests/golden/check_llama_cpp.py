"""Loads a control vector that skeg exported in llama.cpp and compares what it does with logits.safetensors; prints the figures.

    npm pack @node-llama-cpp/linux-x64@3.22.1 && tar xzf node-llama-cpp-*.tgz
    python check_llama_cpp.py package/bins/linux-x64 MODEL.gguf resid_post_14.gguf

The file is what the test `exports_are_files_of_their_formats` leaves where SKEG_EXPORT_FOLDER says: the vector of gen_logits.py for
layer 14. llama.cpp's own `common_control_vector_load` reads it, with strength 0.7, and `llama_set_adapter_cvec` applies it: through
ctypes, since the package has libraries alone. Structures that are passed by value are larger here than there, which the x86-64 calling
convention allows: their bytes lie on the stack, and the callee takes the first ones.

The reference is transformers' in f32 with the vector after block 14, counted from 0. llama.cpp computes on the file's Q4_1 weights with
8-bit activations, so logits differ a little either way. What the vector changed, the difference of steered and plain logits, shows the layer: it is compared
for the file's layer and for the same numbers as `direction.13` and `direction.15`. With node-llama-cpp 3.22.1 (llama.cpp v0.5.0) and
SmolLM2-135M-Instruct.Q4_1.gguf: prompt 1 has cosine 0.984 at layer 14 (0.960 at 13, 0.969 at 15), prompt 2 has 0.970 (-0.04, 0.19). On
prompt 0, a single token, the vector changes less than the quantisation does.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

STRENGTH, VOCAB_SIZE, HIDDEN_SIZE, NUM_LAYERS = 0.7, 49152, 576, 30
NUM_STEERED = 3


QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


class ByValue(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 1024)]


class StdString(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("inside", ctypes.c_char * 16)]


class LoadInfo(ctypes.Structure):
    _fields_ = [("strength", ctypes.c_float), ("name", StdString)]


class StdVector(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p)]


class ControlVector(ctypes.Structure):
    _fields_ = [("n_embd", ctypes.c_int), ("data", StdVector)]


def libraries(folder: Path):
    for name in ("libggml-base.so", *sorted(p.name for p in folder.glob("libggml.v*.so"))):
        loaded = ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    loaded.ggml_backend_load_all_from_path(str(folder).encode())
    llama = ctypes.CDLL(str(next(folder.glob("libllama.v*.so"))), mode=ctypes.RTLD_GLOBAL)
    common = ctypes.CDLL(str(folder / "libllama-common.so"), mode=ctypes.RTLD_GLOBAL)
    for name in ("llama_model_default_params", "llama_context_default_params", "llama_batch_get_one"):
        getattr(llama, name).restype = ByValue
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_get_memory"):
        getattr(llama, name).restype = ctypes.c_void_p
    llama.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    return llama, common


def control_vector(common, path: str) -> np.ndarray:
    """`[layers, hidden_size]`, as llama.cpp reads it: row N - 1 is `direction.N`."""
    name = ctypes.create_string_buffer(path.encode())
    info = LoadInfo(STRENGTH, StdString(ctypes.addressof(name), len(path), b""))
    start = ctypes.addressof(info)
    infos = StdVector(start, start + ctypes.sizeof(info), start + ctypes.sizeof(info))
    load = common["_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"]
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]
    found = ControlVector()
    load(ctypes.addressof(found), ctypes.addressof(infos))
    assert found.n_embd == HIDDEN_SIZE, found.n_embd
    num = (found.data.end - found.data.begin) // 4
    return np.ctypeslib.as_array((ctypes.c_float * num).from_address(found.data.begin)).reshape(-1, HIDDEN_SIZE).copy()


def logits(llama, context, ids: list[int], rows: np.ndarray | None) -> np.ndarray:
    llama.llama_memory_clear(ctypes.c_void_p(llama.llama_get_memory(context)), ctypes.c_bool(True))
    if rows is None:
        assert llama.llama_set_adapter_cvec(context, None, ctypes.c_size_t(0), 0, 0, 0) == 0
    else:
        flat = np.zeros((NUM_LAYERS, HIDDEN_SIZE), dtype=np.float32)
        flat[: len(rows)] = rows
        pointer = flat.ctypes.data_as(ctypes.c_void_p)
        assert llama.llama_set_adapter_cvec(context, pointer, ctypes.c_size_t(flat.size), HIDDEN_SIZE, 1, NUM_LAYERS) == 0
    tokens = (ctypes.c_int32 * len(ids))(*ids)
    assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))) == 0
    return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (VOCAB_SIZE,)).astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def main(folder: str, model_path: str, vector_path: str) -> None:
    here = Path(__file__).parent
    golden, tensors = json.loads((here / "logits.json").read_text()), load_file(here / "logits.safetensors")
    llama, common = libraries(Path(folder))
    llama.llama_log_set(QUIET, None)
    llama.llama_backend_init()
    model = ctypes.c_void_p(llama.llama_model_load_from_file(model_path.encode(), llama.llama_model_default_params()))
    context = ctypes.c_void_p(llama.llama_init_from_model(model, llama.llama_context_default_params()))
    llama.llama_set_n_threads(context, 1, 1)
    rows = control_vector(common, vector_path)
    acting = [layer + 1 for layer in range(len(rows)) if rows[layer].any()]
    print("llama.cpp reads layers", acting)
    (layer,) = acting
    for index in range(NUM_STEERED):
        ids = golden["prompts"][index]["ids"]
        # Every 16th id is in both; the others are each run's largest.
        plain, steered = (tensors[f"logits.{mode}.{index}"][: VOCAB_SIZE // 16] for mode in ("plain", "resid_post"))
        expected = steered.astype(np.float64) - plain
        without = logits(llama, context, ids, None)[::16]
        cosines = {}
        for offset in (-1, 0, 1):
            moved = np.zeros((NUM_LAYERS, HIDDEN_SIZE), dtype=np.float32)
            moved[layer - 1 + offset] = rows[layer - 1]
            found = logits(llama, context, ids, moved)[::16]
            cosines[layer + offset] = round(cosine(found - without, expected), 4)
            if offset == 0:
                change = float(np.abs(found - without).max())
        print(f"prompt {index}: largest change {change:.3f}; plain logits' cosine {cosine(without, plain):.5f};",
              f"changes' cosine with transformers' by layer: {cosines}")


if __name__ == "__main__":
    main(*sys.argv[1:])
