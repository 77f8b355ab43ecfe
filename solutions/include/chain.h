// Programmatic dependent launch: a kernel of ours starts while the one of ours before it still runs, prepares what does
// not depend on it, and waits before it touches anything else.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

namespace fib {

// From here on the next kernel of the stream may start, if it was launched as chained. It waits for our end by itself.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until here nothing of the kernels before may be read, and nothing written. Every block must pass here.
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#if CUDART_VERSION >= 13000
template <class Function> bool driver(const char* name, Function& function) {
  cudaDriverEntryPointQueryResult found;
  void* address = nullptr;
  if (cudaGetDriverEntryPointByVersion(name, &address, 12030, cudaEnableDefault, &found) != cudaSuccess) return false;
  function = reinterpret_cast<Function>(address);
  return found == cudaDriverEntryPointSuccess;
}

// Whether `node` of a graph is a kernel of this namespace, from whichever library.
inline bool is_ours(cudaGraphNode_t node) {
  static CUresult (*params_of)(CUgraphNode, CUDA_KERNEL_NODE_PARAMS*) = nullptr;
  static CUresult (*name_of)(const char**, CUfunction) = nullptr;
  static CUresult (*kernel_name_of)(const char**, CUkernel) = nullptr;
  static const bool known = driver("cuGraphKernelNodeGetParams", params_of) && driver("cuFuncGetName", name_of) &&
                            driver("cuKernelGetName", kernel_name_of);
  cudaGraphNodeType type;
  if (!known || cudaGraphNodeGetType(node, &type) != cudaSuccess || type != cudaGraphNodeTypeKernel) return false;
  CUDA_KERNEL_NODE_PARAMS params = {};
  const char* name = nullptr;
  if (params_of(node, &params) != CUDA_SUCCESS) return false;
  const CUresult result = params.func ? name_of(&name, params.func) : kernel_name_of(&name, params.kern);
  return result == CUDA_SUCCESS && name != nullptr && std::strncmp(name, "_ZN3fib", 7) == 0;
}
#endif

// Whether the next kernel of this stream should be chained: inside a graph, after a kernel of ours. After any other
// kernel, which does not let us start early, an ordinary launch is faster; outside of graphs the launches cost more.
inline bool after_ours(cudaStream_t stream) {
  bool ours = false;
#if CUDART_VERSION >= 13000
  cudaStreamCaptureStatus status;
  const cudaGraphNode_t* before = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t count = 0;
  const cudaError_t result = cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &before, &edges, &count);
  ours = result == cudaSuccess && status == cudaStreamCaptureStatusActive && count == 1 && is_ours(before[0]);
  if (result != cudaSuccess) cudaGetLastError();
#endif
  return ours;
}

// chained: start while the kernel before still runs (needs compute capability 9, as do clusters of several blocks).
template <class... Params, class... Args>
cudaError_t launch_clusters(void (*kernel)(Params...), dim3 grid, unsigned cluster, unsigned threads, size_t shared,
                            bool chained, cudaStream_t stream, Args... args) {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  if (chained) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared, bool chained,
                   cudaStream_t stream, Args... args) {
  return launch_clusters(kernel, grid, 1, threads, shared, chained, stream, args...);
}

// How many clusters of blocks with so much shared memory the device holds at once; 0 where it does not say.
template <class Kernel> int clusters_at_once(Kernel kernel, unsigned cluster, unsigned threads, size_t shared) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(cluster);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int count = 0;
  return cudaOccupancyMaxActiveClusters(&count, kernel, &config) == cudaSuccess ? count : 0;
}

}  // namespace fib
