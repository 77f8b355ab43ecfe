// Runs one plan on one shape and compares with the product in double precision: PLAN, M N K, the device's processors.
#include <cmath>
#include <string>

#include "ring.h"
#include "stream.h"

using namespace fib;

struct Named {
  const char* name;
  Launch plan;
};
#define NAMED(...) {#__VA_ARGS__, __VA_ARGS__}
static const Named PLANS[] = {
#include "plans.inc"
};

// Rows on 16 bytes with NaN between them.
struct Matrix {
  int rows, columns, step;
  std::vector<uint16_t> storage;
  __nv_bfloat16* data;

  Matrix(int rows, int columns, std::mt19937& random) : rows(rows), columns(columns), step((columns + 7) / 8 * 8 + 8) {
    storage.assign(static_cast<size_t>(rows) * step + 8, 0xffff);
    uintptr_t begin = reinterpret_cast<uintptr_t>(storage.data());
    data = reinterpret_cast<__nv_bfloat16*>((begin + 15) / 16 * 16);
    std::normal_distribution<float> normal;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) data[r * step + c] = __float2bfloat16(normal(random));
  }
  size_t bytes() const { return (static_cast<size_t>(rows) * step - 8) * 2; }
};

int main(int, char** args) {
  const int m = std::atoi(args[2]), n = std::atoi(args[3]), k = std::atoi(args[4]), processors = std::atoi(args[5]);
  std::mt19937 random(7);
  Matrix a(m, k, random), b(n, k, random), c(m, n, random);
  std::fill(c.storage.begin(), c.storage.end(), 0xffff);
  host::machine.readable = {{reinterpret_cast<const char*>(a.data), a.bytes(), false},
                            {reinterpret_cast<const char*>(b.data), b.bytes(), true}};
  const Product product{a.data, b.data, c.data, m, n, k, a.step, b.step, c.step};
  const Hardware on{0, 9, processors, 227 * 1024};
  for (const Named& named : PLANS) {
    if (named.name != std::string(args[1])) continue;
    if (named.plan(product, true, on, nullptr) != cudaSuccess) host::fail("refused");
    double wrong = 0.0, norm = 0.0;
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < n; ++j) {
        double want = 0.0;
        for (int l = 0; l < k; ++l) {
          want += double{__bfloat162float(a.data[i * a.step + l])} * __bfloat162float(b.data[j * b.step + l]);
        }
        const double error = __bfloat162float(c.data[i * c.step + j]) - want;
        wrong += error * error;
        norm += want * want;
      }
      for (int j = n; j < c.step && i * c.step + j < static_cast<int>(c.storage.size()) - 8; ++j) {
        if (c.data[i * c.step + j].bits != 0xffff) host::fail("written past a row");
      }
    }
    if (!(std::sqrt(wrong / norm) < 3e-3)) host::fail("wrong");
    std::printf("right\n");
    return 0;
  }
  host::fail("no such plan");
}
