// Draws an index from a row of weights, restricted to the heaviest ones, without sorting the row.
//
// Order of a row: heavier first, among equal weights the lower index first. Top-k and top-p both keep a prefix of it.
// - top-p by rejection: draw from all that is left; if the draw lies in the prefix, take it, else only what lies before
//   the draw is left. What is drawn inside the prefix is drawn in proportion to its weight, whatever was rejected.
// - top-k by selection: the k-th largest block maximum is a floor that at least k weights reach, so only blocks that
//   reach it hold candidates, and few of them; of those the k-th is found by halving.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vec.h"

namespace fib {

// splitmix64 (Steele, Lea, Flood 2014): a counter passed through a mixer; any two seeds give unrelated streams.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
};

constexpr int64_t BLOCK = 256;  // weights summed in single precision before the sum goes on in double

// A place in the order: everything heavier than `weight`, or as heavy with an index below `index`, lies before it.
struct Place {
  float weight;
  int64_t index;
};
constexpr Place END = {-1.0f, 0};  // the whole row lies before it

// Sum of p[begin:end] over weights > bound, or >= bound.
template <bool OR_EQUAL> FIB_INLINE float sum_above(const float* p, int64_t begin, int64_t end, float bound) {
  f32x8 sum = {}, more = {};
  const f32x8 limit = splat(bound), none = {};
  int64_t i = begin;
  for (; i + 2 * LANES <= end; i += 2 * LANES) {
    const f32x8 a = load8(p + i), b = load8(p + i + LANES);
    sum += (OR_EQUAL ? a >= limit : a > limit) ? a : none;
    more += (OR_EQUAL ? b >= limit : b > limit) ? b : none;
  }
  float rest = 0.0f;
  for (; i < end; ++i) rest += (OR_EQUAL ? p[i] >= bound : p[i] > bound) ? p[i] : 0.0f;
  return sum8(sum + more) + rest;
}

// Sum of the weights of p[begin:end] that lie before `place`.
inline float mass_of(const float* p, int64_t begin, int64_t end, Place place) {
  const int64_t cut = std::min(std::max(place.index, begin), end);
  return sum_above<true>(p, begin, cut, place.weight) + sum_above<false>(p, cut, end, place.weight);
}

inline double mass_before(const float* p, int64_t n, Place place) {
  double mass = 0.0;
  for (int64_t i = 0; i < n; i += BLOCK) mass += mass_of(p, i, std::min(i + BLOCK, n), place);
  return mass;
}

inline int64_t heaviest(const float* p, int64_t n) { return std::max_element(p, p + n) - p; }

// The index at which the running sum of the weights before `place` passes `target`.
inline int64_t walk(const float* p, int64_t n, Place place, double target) {
  int64_t last = -1;
  for (int64_t begin = 0; begin < n; begin += BLOCK) {
    const int64_t end = std::min(begin + BLOCK, n);
    const double mass = mass_of(p, begin, end, place);
    if (mass <= 0.0) continue;
    if (target >= mass) {
      target -= mass;
      last = begin;
      continue;
    }
    last = begin;
    break;
  }
  if (last < 0) return heaviest(p, n);
  // Rounding may leave the target a hair beyond the last weight: then the last weight it is.
  int64_t found = -1;
  double sum = 0.0;
  for (int64_t i = last; i < std::min(last + BLOCK, n); ++i) {
    if (!(p[i] > 0.0f) || p[i] < place.weight || (p[i] == place.weight && i >= place.index)) continue;
    found = i;
    sum += p[i];
    if (sum > target) break;
  }
  return found < 0 ? heaviest(p, n) : found;
}

// Draws from the shortest prefix whose mass reaches `nucleus` (an absolute mass; the first of the order always stays).
// `total` is the mass of the row.
inline int64_t draw(const float* p, int64_t n, double total, double nucleus, Random& random) {
  if (!(nucleus > 0.0)) return heaviest(p, n);
  Place left = END;
  double mass = total;
  while (true) {
    const int64_t i = walk(p, n, left, random.uniform() * mass);
    if (nucleus >= total) return i;
    const Place drawn = {p[i], i};
    const double before = mass_before(p, n, drawn);
    // The second test ends the loop where rounding would not: nothing is left before the first of the order.
    if (before < nucleus || before <= 0.0) return i;
    left = drawn;
    mass = before;
  }
}

inline int64_t count_from(const float* p, int64_t n, float bound) {
  i32x8 found = {};
  const f32x8 limit = splat(bound);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) found -= load8(p + i) >= limit;  // true is -1 in a vector
  int64_t count = 0;
  for (int lane = 0; lane < LANES; ++lane) count += found[lane];
  for (; i < n; ++i) count += p[i] >= bound;
  return count;
}

// A bound that k weights reach and, unless several equal the k-th, no more. Floats that are not negative sort as their
// bits do, so halving the range of bits takes at most 31 passes, and a pass is a compare and a subtract per 8 weights.
inline float kth(const float* p, int64_t n, int64_t k) {
  uint32_t low = 0, high = 0x7f800001u;  // k weights reach `low`, fewer reach `high`, which is just past infinity
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    float bound;
    std::memcpy(&bound, &middle, sizeof bound);
    const int64_t count = count_from(p, n, bound);
    if (count == k) return bound;
    (count > k ? low : high) = middle;
  }
  float bound;
  std::memcpy(&bound, &low, sizeof bound);
  return bound;
}

// The k heaviest weights of a row, in order of index: values and their indices.
struct Kept {
  std::vector<float> values, maxima;
  std::vector<int64_t> indices;

  void select(const float* p, int64_t n, int64_t k) {
    values.clear();
    indices.clear();
    const int64_t width = std::min(BLOCK, n / (4 * k) / LANES * LANES);
    if (width < 2 * LANES) {  // so many are kept that no block could be skipped
      gather(p, 0, n, kth(p, n, k));
    } else {
      blocks(p, n, width);
      const float floor = kth(maxima.data(), static_cast<int64_t>(maxima.size()), k);
      for (size_t b = 0; b < maxima.size(); ++b) {
        const int64_t begin = static_cast<int64_t>(b) * width;
        if (maxima[b] >= floor) gather(p, begin, std::min(begin + width, n), floor);
      }
    }
    if (static_cast<int64_t>(values.size()) > k) cut(k);
  }

 private:
  void gather(const float* p, int64_t begin, int64_t end, float floor) {
    for (int64_t i = begin; i < end; ++i) {
      if (!(p[i] >= floor)) continue;
      values.push_back(p[i]);
      indices.push_back(i);
    }
  }

  void blocks(const float* p, int64_t n, int64_t width) {
    maxima.clear();
    for (int64_t begin = 0; begin < n; begin += width) {
      f32x8 top = {};
      const int64_t end = std::min(begin + width, n);
      int64_t i = begin;
      for (; i + LANES <= end; i += LANES) top = max8(load8(p + i), top);
      float most = top8(top);
      for (; i < end; ++i) most = std::max(most, p[i]);
      maxima.push_back(most);
    }
  }

  // Keeps the first k of the order: all above the k-th weight, and of those that equal it the lowest indices.
  void cut(int64_t k) {
    const float last = kth(values.data(), static_cast<int64_t>(values.size()), k);
    int64_t ties = k - std::count_if(values.begin(), values.end(), [&](float v) { return v > last; });
    size_t kept = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] < last || (values[i] == last && ties-- <= 0)) continue;
      values[kept] = values[i];
      indices[kept++] = indices[i];
    }
    values.resize(kept);
    indices.resize(kept);
  }
};

}  // namespace fib
