# The vector kernels, compiled once per instruction set. Highway's static dispatch: each compilation knows exactly one
# target. AVX2 needs -maes -mpclmul too, or Highway quietly stays with four lanes.
function(cbtm_simd_level level table shown)
  add_library(cbtm_simd_${level} OBJECT ${CMAKE_SOURCE_DIR}/host/cpu/simd/kernels.cpp)
  target_link_libraries(cbtm_simd_${level} PRIVATE cbtm_options)
  target_link_libraries(cbtm_simd_${level} PRIVATE hwy::headers)
  target_compile_definitions(cbtm_simd_${level} PRIVATE HWY_COMPILE_ONLY_STATIC HWY_DISABLED_TARGETS=0
                                                        CBTM_SIMD_TABLE=${table} CBTM_SIMD_NAME="${shown}")
  target_compile_options(cbtm_simd_${level} PRIVATE -O3 ${ARGN})
  target_sources(cbtm_cpu PRIVATE $<TARGET_OBJECTS:cbtm_simd_${level}>)
endfunction()

target_sources(cbtm_cpu PRIVATE ${CMAKE_SOURCE_DIR}/host/cpu/simd/choose.cpp)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(avx2_flags -mavx2 -mfma -mf16c -mbmi -mbmi2 -maes -mpclmul)
  cbtm_simd_level(sse4 kKernelsSse4 "SSE4" -msse4.2 -maes -mpclmul)
  cbtm_simd_level(avx2 kKernelsAvx2 "AVX2" ${avx2_flags})
  cbtm_simd_level(avx512 kKernelsAvx512 "AVX-512" ${avx2_flags} -mavx512f -mavx512vl -mavx512dq -mavx512bw
                  -mavx512cd -mprefer-vector-width=512)
  target_compile_definitions(cbtm_cpu PRIVATE CBTM_SIMD_X86=1)
else()
  cbtm_simd_level(native kKernelsNative "native")
endif()
