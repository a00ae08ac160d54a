# The CUDA device: cuda/*.cu and cuda/*.cpp.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cuda/*.cu ${CMAKE_SOURCE_DIR}/cuda/*.cpp)
add_library(cbtm_cuda STATIC ${cuda_sources})
target_link_libraries(cbtm_cuda PUBLIC cbtm_device cbtm_base ${CMAKE_DL_LIBS})
if(CBTM_SHARED_CUDART)
  target_link_libraries(cbtm_cuda PUBLIC CUDA::cudart)
else()
  target_link_libraries(cbtm_cuda PUBLIC CUDA::cudart_static)
endif()
if(CBTM_STATIC)
  if(NOT TARGET CUDA::cublasLt_static)
    message(FATAL_ERROR "CBTM_STATIC: libcublasLt_static.a is missing. Install NVIDIA's libcublas-dev package of this toolkit, or leave out CBTM_STATIC: cuBLASLt is then loaded when it is needed")
  endif()
  target_link_libraries(cbtm_cuda PUBLIC CUDA::cublasLt_static)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/cuda/cublaslt.cpp PROPERTIES COMPILE_DEFINITIONS CBTM_LINKED_CUBLAS_LT=1)
endif()
target_include_directories(cbtm_cuda PUBLIC ${CMAKE_SOURCE_DIR}/cuda ${CUDAToolkit_INCLUDE_DIRS})
# Warnings, those of ptxas too, are errors.
target_compile_options(cbtm_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
  --expt-relaxed-constexpr --extended-lambda -lineinfo -diag-suppress=20208 --Werror all-warnings -Xptxas --warning-as-error
  -Xcompiler=-Wall,-Wextra,-Wno-restrict,-Wno-missing-field-initializers>)
# fmt has its compile-time functions only halfway with nvcc, unless told; its use of long double on the host is no
# concern of the device (20208).
target_compile_definitions(cbtm_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
if(CBTM_SHARED_CUDART)
  target_compile_options(cbtm_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--no-compress>)
endif()
# Registers spilled to memory are an error too, where the kernels are laid out for it (80, 86, 89, 90).
if(NOT "${CMAKE_CUDA_ARCHITECTURES}" MATCHES "75|1[0-9][0-9]")
  target_compile_options(cbtm_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=--warn-on-spills>)
endif()
target_compile_definitions(cbtm_cuda PUBLIC CBTM_HAS_CUDA=1)
