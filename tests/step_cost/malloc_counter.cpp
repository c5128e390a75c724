// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "malloc_counter.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define KOKOMOE_COUNTS_MALLOC 1
#include <dlfcn.h>
#include <execinfo.h>
#include <unistd.h>
#else
#define KOKOMOE_COUNTS_MALLOC 0
#endif

namespace {

std::atomic<bool> counting{false};
std::atomic<long> small_calls{0}, large_calls{0}, gemm_calls{0};

#if KOKOMOE_COUNTS_MALLOC
bool traces = false;
thread_local bool inside = false;

bool in_gemm(void* const* frames, int count) {
  for (int i = 0; i < count; ++i) {
    Dl_info info;
    if (dladdr(frames[i], &info) == 0) continue;
    if (info.dli_fname != nullptr && (std::strstr(info.dli_fname, "blas") != nullptr ||
                                      std::strstr(info.dli_fname, "mkl") != nullptr))
      return true;
    if (info.dli_sname != nullptr && std::strstr(info.dli_sname, "7kokomoe4gemm") != nullptr)
      return true;
  }
  return false;
}

void note(std::size_t bytes) {
  if (!counting.load(std::memory_order_relaxed) || inside) return;
  inside = true;
  void* frames[32];
  const int count = backtrace(frames, 32);
  const bool gemm = in_gemm(frames, count);
  (gemm           ? gemm_calls
   : bytes < 1024 ? small_calls
                  : large_calls)
      .fetch_add(1, std::memory_order_relaxed);
  if (traces && !gemm && write(STDERR_FILENO, "-- malloc\n", 10) > 0)
    backtrace_symbols_fd(frames, count, STDERR_FILENO);
  inside = false;
}
#endif

}  // namespace

#if KOKOMOE_COUNTS_MALLOC
// A program's own malloc takes the place of the C library's, for shared libraries too.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t bytes) noexcept {
  note(bytes);
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  note(count * bytes);
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) noexcept {
  note(bytes);
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  note(bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** result, std::size_t alignment, std::size_t bytes) noexcept {
  note(bytes);
  *result = __libc_memalign(alignment, bytes);
  return *result == nullptr ? ENOMEM : 0;
}
}
#endif

namespace kokomoe::test {

bool malloc_counts_available() {
  return KOKOMOE_COUNTS_MALLOC != 0;
}

void start_malloc_counts() {
#if KOKOMOE_COUNTS_MALLOC
  traces = std::getenv("KOKOMOE_TRACE_MALLOC") != nullptr;
  void* frame[1];
  backtrace(frame, 1);  // its first call loads a library
#endif
  small_calls = large_calls = gemm_calls = 0;
  counting = true;
}

MallocCounts stop_malloc_counts() {
  counting = false;
  return {small_calls, large_calls, gemm_calls};
}

}  // namespace kokomoe::test
