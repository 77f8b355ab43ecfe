// Which plan of a table a product takes on a device: NAME MAJOR MINOR KILOHERTZ BITS M N K.
#include <string>

#include "choose.h"

using namespace fib;

struct Named {
  const char* name;
  Launch plan;
};
#define NAMED(...) {#__VA_ARGS__, __VA_ARGS__}
static const Named PLANS[] = {
#include "plans.inc"
};

int main(int, char** args) {
  std::strncpy(described_device.name, args[1], 255);
  described_device.major = std::atoi(args[2]);
  described_device.minor = std::atoi(args[3]);
  described_attributes[cudaDevAttrMemoryClockRate] = std::atoi(args[4]);
  described_attributes[cudaDevAttrGlobalMemoryBusWidth] = std::atoi(args[5]);
  const Product product{nullptr, nullptr, nullptr, std::atoi(args[6]), std::atoi(args[7]), std::atoi(args[8]), 0, 0, 0};
  const int device = measured_like(0);
  if (device != measured_like(0)) host::fail("another answer the second time");
  const Launch plan = by_table(product, device);
  for (const Named& named : PLANS) {
    if (named.plan == plan) std::printf("%s\n", named.name);
  }
  if (!plan) std::printf("by rule\n");
}
