#include "runtime/check.h"

#include "cbtm/device/device_error.h"
#include "runtime/call_place.h"

namespace cbtm::cuda {
namespace {

const char* advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "the GPU's memory is full: lower --micro-batch, --sequence or --memory, or see with nvidia-smi who else "
             "uses it";
    case cudaErrorLaunchOutOfResources:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidValue:
    case cudaErrorInvalidDeviceFunction:
      return "a mistake of this program for this GPU or this shape: please report it; --device cpu works";
    case cudaErrorNoKernelImageForDevice:
      return "this build has no code for this GPU: build with make cuda ARCH=... for it";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert: return "run the same command once more; if it fails at the same place, please report it";
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
      return "the GPU's hardware failed: look for Xid in dmesg, and use another GPU (--device cuda:N)";
    default: return "run the same command once more; nvidia-smi and dmesg may tell why it failed";
  }
}

}  // namespace

void fail_cuda(cudaError_t status, const char* what, const char* file, int line) {
  fail_device("CUDA: {} ({}) at {}; {}", cudaGetErrorString(status), cudaGetErrorName(status),
              call_place(what, file, line), advice(status));
}

}  // namespace cbtm::cuda
