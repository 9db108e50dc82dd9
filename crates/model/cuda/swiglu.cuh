// SwiGLU's one formula (arXiv 2002.05202), for the kernel of its own and for the product that ends with it.
#pragma once

#include "device.cuh"

DEVICE float silu_times(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }
