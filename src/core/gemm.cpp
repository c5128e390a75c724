// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/gemm.hpp"

#include "kokomoe/core/error.hpp"

#include <KokkosBlas3_gemm.hpp>

#include <algorithm>
#include <initializer_list>

extern "C" {
// OpenBLAS' own controls, absent from other libraries: weak, so that any BLAS links.
void openblas_set_num_threads(int) __attribute__((weak));
char* openblas_get_config() __attribute__((weak));
char* openblas_get_corename() __attribute__((weak));
}

namespace kokomoe {

namespace {

std::string shape(std::size_t rows, std::size_t columns) {
  return "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
}

}  // namespace

template <class T>
void gemm(const ExecutionSpace& space, Transpose transpose_a, Transpose transpose_b, T alpha,
          const Matrix<const T>& a, const Matrix<const T>& b, T beta, const Matrix<T>& c) {
  const bool ta = transpose_a == Transpose::yes;
  const bool tb = transpose_b == Transpose::yes;
  const std::size_t m = a.extent(ta ? 1 : 0), k = a.extent(ta ? 0 : 1);
  const std::size_t kb = b.extent(tb ? 1 : 0), n = b.extent(tb ? 0 : 1);
  if (k != kb || c.extent(0) != m || c.extent(1) != n)
    fail("gemm", "op(A) is " + shape(m, k) + ", op(B) is " + shape(kb, n) + ", C is " +
                     shape(c.extent(0), c.extent(1)));
  if (m == 0 || n == 0) return;
  if (k == 0) {
    // An expert without tokens: its weight gradient is zero, not whatever was there.
    if (beta == T(0)) {
      Kokkos::deep_copy(space, c, T(0));
    } else if (beta != T(1)) {
      const Vector<T> flat(c.data(), m * n);
      Kokkos::parallel_for(
          KOKOMOE_LABEL("core::gemm::scale"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, m * n),
          KOKKOS_LAMBDA(const std::size_t i) { flat(i) *= beta; });
    }
    return;
  }
  KokkosBlas::gemm(space, ta ? "T" : "N", tb ? "T" : "N", alpha, a, b, beta, c);
}

std::string gemm_library() {
#if defined(KOKKOS_ENABLE_CUDA)
#if defined(KOKKOSKERNELS_ENABLE_TPL_CUBLAS)
  return "cuBLAS through Kokkos Kernels";
#else
  return "Kokkos Kernels' own GEMM (slower: built without cuBLAS)";
#endif
#elif defined(KOKKOS_ENABLE_HIP)
#if defined(KOKKOSKERNELS_ENABLE_TPL_ROCBLAS)
  return "rocBLAS through Kokkos Kernels";
#else
  return "Kokkos Kernels' own GEMM (slower: built without rocBLAS)";
#endif
#elif defined(KOKKOS_ENABLE_SYCL)
#if defined(KOKKOSKERNELS_ENABLE_TPL_MKL)
  return "oneMKL through Kokkos Kernels";
#else
  return "Kokkos Kernels' own GEMM (slower: built without oneMKL)";
#endif
#elif defined(KOKKOSKERNELS_ENABLE_TPL_BLAS)
  if (openblas_get_config != nullptr)
    return std::string("BLAS through Kokkos Kernels: ") + openblas_get_config() +
           (better_openblas_core().empty()
                ? ""
                : "\nGEMM is SLOW: this OpenBLAS does not know this CPU; set OPENBLAS_CORETYPE=" +
                      better_openblas_core());
  return "BLAS through Kokkos Kernels";
#else
  return "Kokkos Kernels' own GEMM (slower: built without a BLAS)";
#endif
}

std::string better_openblas_core() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (openblas_get_corename == nullptr) return "";
  const std::string core = openblas_get_corename();
  const auto is_one_of = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), core) != names.end();
  };
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool before_avx = is_one_of({"Prescott", "Core2", "Penryn", "Dunnington", "Nehalem",
                                     "Athlon", "Opteron", "Opteron_SSE3", "Barcelona", "Bobcat",
                                     "Atom", "Unknown"});
  if (before_avx || is_one_of({"Sandybridge"})) return wide ? "SkylakeX" : fused ? "Haswell" : "";
#endif
  return "";
}

void configure_blas() {
  if (openblas_set_num_threads == nullptr || !host_accessible) return;
  openblas_set_num_threads(std::max(1, ExecutionSpace().concurrency()));
}

#define KOKOMOE_INSTANTIATE(T)                                                              \
  template void gemm<T>(const ExecutionSpace&, Transpose, Transpose, T, const Matrix<const T>&, \
                        const Matrix<const T>&, T, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
