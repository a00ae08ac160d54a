#include <cstdlib>
#include <string_view>
#include <vector>

#include "cbtm/base/error.h"
#include "cpu/simd/kernels.h"

namespace cbtm::cpu {

#ifdef CBTM_SIMD_X86
extern const Kernels kKernelsSse4;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;

namespace {

const Kernels& choose() {
  const char* asked_text = std::getenv("CBTM_SIMD");
  const std::string_view asked = asked_text != nullptr ? asked_text : "";
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!__builtin_cpu_supports("sse4.2")) fail("this processor has no SSE4.2, which cbtm needs");
  if (asked.empty()) return avx512 ? kKernelsAvx512 : avx2 ? kKernelsAvx2 : kKernelsSse4;
  if (asked == "sse4") return kKernelsSse4;
  if (asked == "avx2" && avx2) return kKernelsAvx2;
  if (asked == "avx512" && avx512) return kKernelsAvx512;
  fail("CBTM_SIMD={}: this processor cannot do that, or it is unknown; use sse4, avx2, avx512 or leave it unset",
       asked);
}

}  // namespace
#else
extern const Kernels kKernelsNative;

namespace {

const Kernels& choose() { return kKernelsNative; }

}  // namespace
#endif

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace cbtm::cpu
