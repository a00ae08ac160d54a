# The vector kernels, compiled once per instruction set. Highway's static dispatch: each compilation knows exactly one
# target. AVX2 needs -maes -mpclmul too, or Highway quietly stays with four lanes.
include(CheckCXXSourceCompiles)

# cbtm_simd_object(NAME SOURCE TABLE SHOWN flags...): one source of host/cpu/simd for one instruction set.
function(cbtm_simd_object name source table shown)
  add_library(cbtm_simd_${name} OBJECT ${CMAKE_SOURCE_DIR}/host/cpu/simd/${source})
  target_link_libraries(cbtm_simd_${name} PRIVATE cbtm_options)
  target_link_libraries(cbtm_simd_${name} PRIVATE hwy::headers)
  target_compile_definitions(cbtm_simd_${name} PRIVATE HWY_COMPILE_ONLY_STATIC HWY_DISABLED_TARGETS=0
                                                       CBTM_SIMD_TABLE=${table} CBTM_SIMD_NAME="${shown}")
  target_compile_options(cbtm_simd_${name} PRIVATE -O3 ${ARGN})
  target_sources(cbtm_cpu PRIVATE $<TARGET_OBJECTS:cbtm_simd_${name}>)
endfunction()

# Products with int8 weights round alike everywhere: no compiler may join a multiplication and an addition.
set(alike -ffp-contract=off)

target_sources(cbtm_cpu PRIVATE ${CMAKE_SOURCE_DIR}/host/cpu/simd/choose.cpp)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(sse4_flags -msse4.2 -maes -mpclmul)
  set(avx2_flags -mavx2 -mfma -mf16c -mbmi -mbmi2 -maes -mpclmul)
  set(avx512_flags ${avx2_flags} -mavx512f -mavx512vl -mavx512dq -mavx512bw -mavx512cd -mprefer-vector-width=512)
  cbtm_simd_object(sse4 kernels.cpp kKernelsSse4 "SSE4" ${sse4_flags})
  cbtm_simd_object(avx2 kernels.cpp kKernelsAvx2 "AVX2" ${avx2_flags})
  cbtm_simd_object(avx512 kernels.cpp kKernelsAvx512 "AVX-512" ${avx512_flags})
  cbtm_simd_object(int8_sse4 int8_products.cpp kInt8Sse4 "SSE4" ${sse4_flags} ${alike})
  cbtm_simd_object(int8_avx2 int8_products.cpp kInt8Avx2 "AVX2" ${avx2_flags} ${alike})
  cbtm_simd_object(int8_avx512 int8_products.cpp kInt8Avx512 "AVX-512" ${avx512_flags} ${alike})
  target_compile_definitions(cbtm_cpu PRIVATE CBTM_SIMD_X86=1)
  # Compilers that know the instructions also know how to ask a processor for them.
  set(CMAKE_REQUIRED_FLAGS "-mavx512vnni -mavxvnni -mavx512bf16")
  check_cxx_source_compiles("int main() { return __builtin_cpu_supports(\"avxvnni\") +
    __builtin_cpu_supports(\"avx512vnni\") + __builtin_cpu_supports(\"avx512bf16\"); }" CBTM_COMPILES_DOT)
  set(CMAKE_REQUIRED_FLAGS "-mamx-tile -mamx-int8 -mamx-bf16")
  check_cxx_source_compiles("int main() { return __builtin_cpu_supports(\"amx-tile\") +
    __builtin_cpu_supports(\"amx-int8\") + __builtin_cpu_supports(\"amx-bf16\"); }" CBTM_COMPILES_AMX)
  unset(CMAKE_REQUIRED_FLAGS)
  if(CBTM_COMPILES_DOT)
    set(dot_flags ${avx512_flags} -mavx512vnni -mavx512bf16 ${alike})
    cbtm_simd_object(avx_vnni vnni_products.cpp kInt8AvxVnni "AVX VNNI" ${avx2_flags} -mavxvnni ${alike})
    cbtm_simd_object(avx512_vnni vnni_products.cpp kInt8Avx512Vnni "AVX-512 VNNI" ${avx512_flags} -mavx512vnni ${alike})
    cbtm_simd_object(avx512_bf16 bf16_products.cpp kBf16Dot "AVX-512 BF16" ${dot_flags})
    target_compile_definitions(cbtm_cpu PRIVATE CBTM_SIMD_DOT=1)
    if(CBTM_COMPILES_AMX AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
      set(amx_flags ${dot_flags} -mamx-tile -mamx-int8 -mamx-bf16)
      cbtm_simd_object(amx_int8 amx_int8_product.cpp kInt8Amx "AMX" ${amx_flags})
      cbtm_simd_object(amx_bf16 amx_bf16_product.cpp kBf16Amx "AMX" ${amx_flags})
      target_compile_definitions(cbtm_cpu PRIVATE CBTM_SIMD_AMX=1)
    endif()
  endif()
else()
  cbtm_simd_object(native kernels.cpp kKernelsNative "native")
  cbtm_simd_object(int8_native int8_products.cpp kInt8Native "native" ${alike})
endif()
