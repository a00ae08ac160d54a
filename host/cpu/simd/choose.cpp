#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/error.h"
#include "cpu/simd/kernels.h"
#include "cpu/simd/narrow_products.h"

#ifdef CBTM_SIMD_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cbtm::cpu {

#ifdef CBTM_SIMD_X86
extern const Kernels kKernelsSse4, kKernelsAvx2, kKernelsAvx512;
extern const NarrowProduct kInt8Sse4, kInt8Avx2, kInt8Avx512;
#ifdef CBTM_SIMD_DOT
extern const NarrowProduct kInt8AvxVnni, kInt8Avx512Vnni, kBf16Dot;
#endif
#ifdef CBTM_SIMD_AMX
extern const NarrowProduct kInt8Amx, kBf16Amx;
#endif
#else
extern const Kernels kKernelsNative;
extern const NarrowProduct kInt8Native;
#endif

namespace {

/// What CBTM_SIMD may name, from the least to the best: each but sse4 can do all of an earlier one or replaces it.
struct Level {
  std::string_view name;
  const char* shown;
  const Kernels* kernels;
  NarrowProducts products;
  bool available;
  bool preferred = true;  ///< to the levels before it, where nothing is asked for
};

#ifdef CBTM_SIMD_AMX
/// Whether the kernel gives this process the tiles' registers: Linux does for those who ask, unless it was told not to.
bool tiles_allowed() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

std::vector<Level> levels() {
#ifdef CBTM_SIMD_X86
  if (!__builtin_cpu_supports("sse4.2")) fail("this processor has no SSE4.2, which cbtm needs");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  std::vector<Level> all = {{"sse4", "SSE4", &kKernelsSse4, {kInt8Sse4}, true},
                            {"avx2", "AVX2", &kKernelsAvx2, {kInt8Avx2}, avx2}};
#ifdef CBTM_SIMD_DOT
  all.push_back(
      {"avx2_vnni", "AVX2 with VNNI", &kKernelsAvx2, {kInt8AvxVnni}, avx2 && __builtin_cpu_supports("avxvnni")});
#endif
  all.push_back({"avx512", "AVX-512", &kKernelsAvx512, {kInt8Avx512}, avx512});
#ifdef CBTM_SIMD_DOT
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
  all.push_back({"avx512_vnni", "AVX-512 with VNNI", &kKernelsAvx512, {kInt8Avx512Vnni}, vnni});
  all.push_back({"avx512_bf16",
                 "AVX-512 with VNNI and BF16",
                 &kKernelsAvx512,
                 {kInt8Avx512Vnni, kBf16Dot},
                 bf16,
                 !__builtin_cpu_is("intel")});  // there VDPBF16PS is half as fast as widening and float32
#ifdef CBTM_SIMD_AMX
  const bool amx = bf16 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                   __builtin_cpu_supports("amx-bf16") && tiles_allowed();
  all.push_back(
      {"amx", "AVX-512 with VNNI, BF16 and AMX", &kKernelsAvx512, {kInt8Avx512Vnni, kBf16Amx, kInt8Amx, 2}, amx});
#endif
#endif
  return all;
#else
  return {{"native", "native", &kKernelsNative, {kInt8Native}, true}};
#endif
}

struct Chosen {
  Kernels kernels;
  NarrowProducts products;
};

Chosen choose() {
  const char* asked_text = std::getenv("CBTM_SIMD");
  const std::string_view asked = asked_text != nullptr ? asked_text : "";
  const Level* best = nullptr;
  const std::vector<Level> all = levels();
  std::string names;
  for (const Level& level : all) {
    if (!level.available) continue;
    names += names.empty() ? level.name : ", " + std::string(level.name);
    if (asked.empty() ? level.preferred : asked == level.name) best = &level;
  }
  if (best == nullptr)
    fail("CBTM_SIMD={}: this processor cannot do that, or it is unknown; use one of {}, or leave it unset", asked,
         names);
  Chosen chosen{*best->kernels, best->products};
  chosen.kernels.name = best->shown;
  return chosen;
}

const Chosen& chosen() {
  static const Chosen once = choose();
  return once;
}

}  // namespace

const Kernels& kernels() { return chosen().kernels; }
const NarrowProducts& narrow_products() { return chosen().products; }

}  // namespace cbtm::cpu
