#include "tests/cuda/faults/faults.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

namespace {

struct Fault {
  std::string call, part;
  long number = 0;
  bool and_after = false;
  cudaError_t status = cudaSuccess;
  long seen = 0;
};

struct Plan {
  std::mutex lock;
  std::vector<Fault> faults;
  size_t free_bytes = SIZE_MAX;  ///< not allocated yet, of those that may be
  std::map<void*, size_t> allocated;
  cudaError_t last_error = cudaSuccess;          ///< of a launch
  std::map<const void*, std::string> functions;  ///< name by the host's address of a kernel
  std::map<const void*, const void*> kernels;    ///< that address by its handle

  void set(std::string_view text) {
    faults.clear();
    free_bytes = SIZE_MAX;
    last_error = cudaSuccess;
    while (!text.empty()) {
      std::string one(text.substr(0, text.find(',')));
      text.remove_prefix(std::min(text.size(), one.size() + 1));
      Fault fault;
      const size_t first = one.find(':');
      if (first == std::string::npos) stop(one);
      fault.call = one.substr(0, first);
      if (fault.call == "free") {
        free_bytes = std::strtoull(one.c_str() + first + 1, nullptr, 10);
        continue;
      }
      if (const size_t equals = fault.call.find('='); equals != std::string::npos) {
        fault.part = fault.call.substr(equals + 1);
        fault.call.resize(equals);
      }
      char* end = nullptr;
      fault.number = std::strtol(one.c_str() + first + 1, &end, 10);
      if (*end == '+') fault.and_after = true, ++end;
      if (*end == ':') fault.status = static_cast<cudaError_t>(std::strtol(end + 1, &end, 10));
      if (fault.number < 1 || *end != 0) stop(one);
      faults.push_back(fault);
    }
  }

  /// Of this call of a function (or launch of a kernel).
  cudaError_t status(std::string_view call, std::string_view name = {}) {
    cudaError_t status = cudaSuccess;
    for (Fault& fault : faults) {
      if (fault.call != call || name.find(fault.part) == std::string_view::npos) continue;
      ++fault.seen;
      if (fault.seen == fault.number || (fault.and_after && fault.seen > fault.number)) status = fault.status;
    }
    return status;
  }
  bool meets(std::string_view call, std::string_view name) {
    bool met = false;
    for (Fault& fault : faults)
      if (fault.call == call && name.find(fault.part) != std::string_view::npos && ++fault.seen == fault.number)
        met = true;
    return met;
  }

  [[noreturn]] static void stop(const std::string& fault) {
    std::fprintf(stderr, "CBTM_FAULT: %s cannot be read\n", fault.c_str());
    std::abort();
  }
};

Plan& plan() {
  static Plan& plan = *new Plan;  // never destroyed: the runtime is called up to the very end
  [[maybe_unused]] static const bool read = [] {
    if (const char* faults = std::getenv("CBTM_FAULT"); faults != nullptr) plan.set(faults);
    return true;
  }();
  return plan;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

cudaError_t planned(const char* call) {
  const std::lock_guard guard(plan().lock);
  return plan().status(call);
}

}  // namespace

extern "C" {

void cbtm_set_faults(const char* faults) {
  const std::lock_guard guard(plan().lock);
  plan().set(faults);
}

#define CBTM_FAULTY(name, parameters, ...)                                               \
  cudaError_t name parameters {                                                          \
    if (const cudaError_t status = planned(#name); status != cudaSuccess) return status; \
    return next<cudaError_t parameters>(#name)(__VA_ARGS__);                             \
  }

CBTM_FAULTY(cudaGetDeviceCount, (int* count), count)
CBTM_FAULTY(cudaSetDevice, (int device), device)
CBTM_FAULTY(cudaMallocHost, (void** memory, size_t bytes), memory, bytes)
CBTM_FAULTY(cudaMemcpyAsync, (void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream), to,
            from, bytes, kind, stream)
CBTM_FAULTY(cudaMemsetAsync, (void* memory, int value, size_t bytes, cudaStream_t stream), memory, value, bytes, stream)
CBTM_FAULTY(cudaStreamCreateWithFlags, (cudaStream_t * stream, unsigned flags), stream, flags)
CBTM_FAULTY(cudaEventCreateWithFlags, (cudaEvent_t * event, unsigned flags), event, flags)
CBTM_FAULTY(cudaEventRecord, (cudaEvent_t event, cudaStream_t stream), event, stream)
CBTM_FAULTY(cudaEventSynchronize, (cudaEvent_t event), event)
CBTM_FAULTY(cudaStreamSynchronize, (cudaStream_t stream), stream)
CBTM_FAULTY(cudaStreamWaitEvent, (cudaStream_t stream, cudaEvent_t event, unsigned flags), stream, event, flags)
CBTM_FAULTY(cudaGraphInstantiate, (cudaGraphExec_t * executable, cudaGraph_t graph, unsigned long long flags),
            executable, graph, flags)
CBTM_FAULTY(cudaGraphLaunch, (cudaGraphExec_t graph, cudaStream_t stream), graph, stream)

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const std::lock_guard guard(plan().lock);
  if (const cudaError_t status = plan().status("cudaMalloc"); status != cudaSuccess) return status;
  if (bytes > plan().free_bytes) return cudaErrorMemoryAllocation;
  const cudaError_t status = next<cudaError_t(void**, size_t)>("cudaMalloc")(memory, bytes);
  if (status == cudaSuccess && plan().free_bytes != SIZE_MAX) {
    plan().free_bytes -= bytes;
    plan().allocated[*memory] = bytes;
  }
  return status;
}
cudaError_t cudaFree(void* memory) {
  const std::lock_guard guard(plan().lock);
  if (const auto found = plan().allocated.find(memory); found != plan().allocated.end()) {
    if (plan().free_bytes != SIZE_MAX) plan().free_bytes += found->second;
    plan().allocated.erase(found);
  }
  return next<cudaError_t(void*)>("cudaFree")(memory);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const cudaError_t status = next<cudaError_t(size_t*, size_t*)>("cudaMemGetInfo")(free, total);
  const std::lock_guard guard(plan().lock);
  *free = std::min(*free, plan().free_bytes);
  return status;
}

// Launches: nvcc registers a kernel's name with the address of its stub, asks for its handle, launches that.
void __cudaRegisterFunction(void** module, const char* host_function, char* device_function, const char* name,
                            int thread_limit, uint3* thread, uint3* block, dim3* block_dimensions, dim3* grid,
                            int* warp_size) {
  {
    const std::lock_guard guard(plan().lock);
    plan().functions[host_function] = name;
  }
  next<void(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*)>(
      "__cudaRegisterFunction")(module, host_function, device_function, name, thread_limit, thread, block,
                                block_dimensions, grid, warp_size);
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  const cudaError_t status = next<cudaError_t(cudaKernel_t*, const void*)>("__cudaGetKernel")(kernel, host_function);
  const std::lock_guard guard(plan().lock);
  plan().kernels[*kernel] = host_function;
  return status;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  bool poisoned = false;
  {
    const std::lock_guard guard(plan().lock);
    const std::string& name = plan().functions[plan().kernels[kernel]];
    if (const cudaError_t status = plan().status("launch", name); status != cudaSuccess) {
      plan().last_error = status;
      return status;
    }
    poisoned = plan().meets("nan", name);
  }
  if (poisoned)  // all bits set: a NaN
    next<decltype(cudaMemsetAsync)>("cudaMemsetAsync")(*static_cast<void**>(arguments[0]), 0xff, 4, stream);
  return next<cudaError_t(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t)>("__cudaLaunchKernel")(
      kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaGetLastError() {
  const cudaError_t status = next<cudaError_t()>("cudaGetLastError")();
  const std::lock_guard guard(plan().lock);
  return plan().last_error != cudaSuccess ? std::exchange(plan().last_error, cudaSuccess) : status;
}
cudaError_t cudaPeekAtLastError() {
  const cudaError_t status = next<cudaError_t()>("cudaPeekAtLastError")();
  const std::lock_guard guard(plan().lock);
  return plan().last_error != cudaSuccess ? plan().last_error : status;
}
}
