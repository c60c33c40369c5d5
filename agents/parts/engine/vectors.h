// Vectors of WIDTH float32 numbers, and functions of them.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

using Index = int64_t;
typedef float Vec __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<Vec*>(p) = x; }
// The same of the first n numbers where there are no more; the others are read as zeros.
inline Vec load(const float* p, Index n) {
  if (n >= WIDTH) return load(p);
  Vec x{};
  if (n > 0) memcpy(&x, p, n * sizeof(float));
  return x;
}
inline void store(float* p, Vec x, Index n) {
  if (n >= WIDTH) return store(p, x);
  memcpy(p, &x, n * sizeof(float));
}
inline Vec broadcast(float x) { return x - Vec{}; }

// exp, to 2 units in the last place (Cephes' polynomial); ends at the range of float32.
inline Vec exponential(Vec x) {
  const Vec high = broadcast(88.3762626647949f), low = broadcast(-87.3365478515625f);
  Vec y = x > high ? high : x;
  y = y < low ? low : y;
  Vec shifted = y * 1.44269504088896341f + 12582912.0f;  // rounds to the nearest integer: 1.5 * 2^23
  Vec n = shifted - 12582912.0f;
  y = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
#pragma GCC unroll 5
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * y + c;
  p = p * y * y + y + 1.0f;
  Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Vec scale;
  memcpy(&scale, &power, sizeof scale);
  return x != x ? x : p * scale;
}
inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }
// x sigmoid(x), and its derivative.
inline Vec swish(Vec x, Vec& slope) {
  const Vec s = sigmoid(x);
  slope = s * (1.0f + x * (1.0f - s));
  return x * s;
}
inline Vec hyperbolic_tangent(Vec x) {
  // Near 0 the quotient cancels: there the series x - x^3/3 + 2x^5/15 - 17x^7/315 is exact to rounding.
  Vec s = x * x, small = x + x * s * (-0.333333333f + s * (0.133333333f - s * 0.053968254f));
  Vec e = exponential(-2.0f * (x < 0.0f ? -x : x));
  Vec large = (1.0f - e) / (1.0f + e);
  return s < 0.01f ? small : x < 0.0f ? -large : large;
}

// log(1 + x) for x in (0, 1]: 2 atanh(x / (2 + x)), whose argument is at most 1/3.
inline Vec log_1_plus(Vec x) {
  const Vec z = x / (2.0f + x), s = z * z;
  Vec p = broadcast(1.0f / 15);
  for (int odd = 13; odd > 0; odd -= 2) p = p * s + 1.0f / odd;
  return 2.0f * z * p;
}
inline Vec softplus(Vec x) { return (x > 0.0f ? x : Vec{}) + log_1_plus(exponential(x < 0.0f ? x : -x)); }

}  // namespace
