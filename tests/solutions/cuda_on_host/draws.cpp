// Draws from one row again and again: C (1 or 3), DRAWS, K (0: no such filter), P (2: no such filter), then the weights.
#include <vector>

#include "draw.h"

using namespace fib;

int main(int count, char** args) {
  const int rows = std::atoi(args[2]), n = count - 5;
  std::vector<float> probs(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) probs[static_cast<size_t>(i)] = std::strtof(args[5 + i], nullptr);
  const std::vector<int32_t> ks(static_cast<size_t>(rows), std::atoi(args[3]));
  const std::vector<float> ps(static_cast<size_t>(rows), std::strtof(args[4], nullptr));
  std::vector<int64_t> samples(static_cast<size_t>(rows), -1);
  const Draws draws{probs.data(), std::atoi(args[3]) ? ks.data() : nullptr, ps[0] < 2.0f ? ps.data() : nullptr,
                    samples.data(), n, 0, 7};
  const cudaError_t result = std::atoi(args[1]) == 1 ? draw<1, 64>(draws, rows, false, 227 * 1024, nullptr)
                                                     : draw<3, 32>(draws, rows, false, 227 * 1024, nullptr);
  if (result != cudaSuccess) host::fail("refused");
  for (const int64_t sample : samples) std::printf("%d\n", static_cast<int>(sample));
}
