// Eight floats at a time. GCC and Clang vector types turn into AVX2 where the build enables it and into narrower code
// elsewhere, so that the kernels do not depend on the vectoriser's mood; the few intrinsics are where GCC 12 is clumsy.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#define FIB_INLINE inline __attribute__((always_inline))

namespace fib {

constexpr int64_t LANES = 8;

typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));

struct bf16 {
  uint16_t bits;
};

FIB_INLINE f32x8 splat(float x) { return f32x8{x, x, x, x, x, x, x, x}; }

#ifdef __AVX2__
FIB_INLINE u32x8 widen8(u16x8 x) { return reinterpret_cast<u32x8>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x))); }
FIB_INLINE i32x8 round8(f32x8 x) { return reinterpret_cast<i32x8>(_mm256_cvtps_epi32(x)); }
// NaN in x passes through both: the hardware returns its second operand then.
FIB_INLINE f32x8 clamp8(f32x8 x, float low, float high) { return _mm256_max_ps(splat(low), _mm256_min_ps(splat(high), x)); }
FIB_INLINE f32x8 max8(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); }  // b where a is NaN
#else
FIB_INLINE u32x8 widen8(u16x8 x) { return __builtin_convertvector(x, u32x8); }
FIB_INLINE i32x8 round8(f32x8 x) { return __builtin_convertvector(x + (x < 0.0f ? splat(-0.5f) : splat(0.5f)), i32x8); }
FIB_INLINE f32x8 clamp8(f32x8 x, float low, float high) {
  f32x8 y = x > high ? splat(high) : x;
  return y < low ? splat(low) : y;
}
FIB_INLINE f32x8 max8(f32x8 a, f32x8 b) { return a > b ? a : b; }
#endif

FIB_INLINE float to_float(float x) { return x; }
FIB_INLINE float to_float(bf16 x) {
  uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

FIB_INLINE f32x8 load8(const float* p) {
  f32x8 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FIB_INLINE f32x8 load8(const bf16* p) {
  u16x8 half;
  std::memcpy(&half, p, sizeof half);
  return reinterpret_cast<f32x8>(widen8(half) << 16);
}

FIB_INLINE void store8(float* p, f32x8 v) { std::memcpy(p, &v, sizeof v); }
// Round to nearest, ties to even, NaN stays NaN: what torch does when it casts float32 to bfloat16.
FIB_INLINE void store8(bf16* p, f32x8 v) {
  u32x8 bits = reinterpret_cast<u32x8>(v);
  u32x8 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  u32x8 nan = reinterpret_cast<u32x8>(v != v);
  rounded = (nan & 0x7fc0u) | (~nan & rounded);
  u16x8 half = __builtin_convertvector(rounded, u16x8);
  std::memcpy(p, &half, sizeof half);
}

// The n < 8 elements at the end of a row; lanes past them read as zero.
template <class T> FIB_INLINE f32x8 load_part(const T* p, int64_t n) {
  T row[LANES] = {};
  std::memcpy(row, p, static_cast<size_t>(n) * sizeof(T));
  return load8(row);
}
template <class T> FIB_INLINE void store_part(T* p, f32x8 v, int64_t n) {
  T row[LANES];
  store8(row, v);
  std::memcpy(p, row, static_cast<size_t>(n) * sizeof(T));
}

FIB_INLINE float top8(f32x8 v) {
  float top = v[0];
  for (int i = 1; i < LANES; ++i) top = v[i] > top ? v[i] : top;
  return top;
}

FIB_INLINE float sum8(f32x8 v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// e**x, relative error about 1e-7 (range reduction by ln 2, then a polynomial); 0 below the smallest normal number.
FIB_INLINE f32x8 exp8(f32x8 x) {
  constexpr float LOW = -87.3f;
  const f32x8 y = clamp8(x, LOW, 88.3f);
  const i32x8 n = round8(y * 1.44269504f);
  f32x8 whole = __builtin_convertvector(n, f32x8);
  f32x8 r = y - whole * 0.693359375f;  // ln 2 in two parts, so that the difference keeps its low bits
  r = r - whole * -2.12194440e-4f;
  f32x8 poly = splat(1.9875691500e-4f);
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  poly = poly * r * r + r + 1.0f;
  f32x8 power = reinterpret_cast<f32x8>((n + 127) << 23);
  return x < LOW ? splat(0.0f) : poly * power;
}

}  // namespace fib
