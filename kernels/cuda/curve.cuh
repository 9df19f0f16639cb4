// The activation functions and their slopes, in f32; activation/curve.rs has the same on the CPU, with their sources.
//
// A program is compiled with one of them, -DCURVE=Silu say: a kernel for each would be compiled and hardly ever used.
#pragma once
#include "ptx.cuh"

// 1 / (1 + e^-x). Where e^-x overflows this is 1 / infinity, which is what it should be.
DEV float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// x Phi(x), with the normal distribution function Phi.
struct GeluErf {
  static constexpr float SQRT_HALF = 0.707106781f, DENSITY_AT_0 = 0.398942280f;
  DEV float value(float x) { return x * (0.5f + 0.5f * erff(x * SQRT_HALF)); }
  DEV float slope(float x) {
    return 0.5f + 0.5f * erff(x * SQRT_HALF) + x * (DENSITY_AT_0 * expf(-0.5f * x * x));
  }
};

struct GeluTanh {
  static constexpr float SQRT_2_OVER_PI = 0.797884561f, CUBIC = 0.044715f;
  DEV float tanh_of(float x) { return tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)); }
  DEV float value(float x) { return 0.5f * x * (1.0f + tanh_of(x)); }
  DEV float slope(float x) {
    const float t = tanh_of(x), inner = SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
  }
};

struct QuickGelu {
  static constexpr float STEEPNESS = 1.702f;
  DEV float value(float x) { return x * sigmoid(STEEPNESS * x); }
  DEV float slope(float x) {
    const float z = STEEPNESS * x, s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
  }
};

// The slope at 0 is 0, and NaN stays NaN.
struct Relu {
  DEV float value(float x) { return x < 0.0f ? 0.0f : x; }
  DEV float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};

struct SquaredRelu {
  DEV float value(float x) { return Relu::value(x) * Relu::value(x); }
  DEV float slope(float x) { return 2.0f * Relu::value(x); }
};

struct Silu {
  DEV float value(float x) { return x * sigmoid(x); }
  DEV float slope(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
};
