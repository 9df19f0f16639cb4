// What the compiler calls at every access of an instrumented kernel: the interface of -fsanitize=thread, without its
// library. Outside of a kernel, nothing is looked at.
#include "watch.h"

#include "checker.h"
#include "counters.h"
#include "fiber.h"

namespace sim {

Watch watch;

static inline void access(const volatile void* pointer, size_t bytes, unsigned access, bool natural, const void* place) {
  auto address = reinterpret_cast<uint64_t>(pointer);
  if (address - watch.stack < STACK_BYTES) return;  // a local of the thread's own
  if (watch.check) checker::access(address, bytes, access, natural, place);
  if (watch.count) counters::access(address, bytes, access & checker::WRITE, natural, place);
}

}  // namespace sim

#define PLACE __builtin_return_address(0)

// `natural`: an instruction of this width was meant; the compiler knows the type to be so aligned.
#define HOOKS(n)                                                                                              \
  SIM_EXPORT void __tsan_read##n(void* p) { sim::access(p, n, sim::checker::READ, true, PLACE); }             \
  SIM_EXPORT void __tsan_write##n(void* p) { sim::access(p, n, sim::checker::WRITE, true, PLACE); }           \
  SIM_EXPORT void __tsan_volatile_read##n(void* p) { sim::access(p, n, sim::checker::READ, true, PLACE); }    \
  SIM_EXPORT void __tsan_volatile_write##n(void* p) { sim::access(p, n, sim::checker::WRITE, true, PLACE); }  \
  SIM_EXPORT void __tsan_unaligned_read##n(void* p) { sim::access(p, n, sim::checker::READ, false, PLACE); }  \
  SIM_EXPORT void __tsan_unaligned_write##n(void* p) { sim::access(p, n, sim::checker::WRITE, false, PLACE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

SIM_EXPORT void __tsan_read_range(void* p, size_t n) { sim::access(p, n, sim::checker::READ, false, PLACE); }
SIM_EXPORT void __tsan_write_range(void* p, size_t n) { sim::access(p, n, sim::checker::WRITE, false, PLACE); }

SIM_EXPORT void __tsan_init() {}
SIM_EXPORT void __tsan_func_entry(void*) {}
SIM_EXPORT void __tsan_func_exit() {}

// Threads do not interrupt each other, so plain updates are atomic. Of the orders that C++ has, those that kernels use:
// a read that acquires, a write that releases; all others are relaxed, and come from updates (checker::updated).
template <class T>
static T load(const volatile T* p, int order, const void* place) {
  sim::access(p, sizeof(T), sim::checker::READ | sim::checker::ATOMIC, true, place);
  if (sim::watch.check && order == __ATOMIC_ACQUIRE) sim::checker::acquired(reinterpret_cast<uint64_t>(p));
  return *p;
}
template <class T>
static void store(volatile T* p, T value, int order, const void* place) {
  sim::access(p, sizeof(T), sim::checker::WRITE | sim::checker::ATOMIC, true, place);
  if (sim::watch.check && order == __ATOMIC_RELEASE) sim::checker::released(reinterpret_cast<uint64_t>(p));
  else if (sim::watch.check) sim::checker::updated(reinterpret_cast<uint64_t>(p));
  *p = value;
}
#define ATOMICS(bits)                                                                                                \
  SIM_EXPORT uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int order) {                \
    return load(p, order, PLACE);                                                                                    \
  }                                                                                                                  \
  SIM_EXPORT void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t v, int order) {             \
    store(p, v, order, PLACE);                                                                                       \
  }                                                                                                                  \
  SIM_EXPORT uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* p, uint##bits##_t v, int) {      \
    uint##bits##_t old = load(p, __ATOMIC_RELAXED, PLACE);                                                           \
    store(p, v, __ATOMIC_RELAXED, PLACE);                                                                            \
    return old;                                                                                                      \
  }                                                                                                                  \
  SIM_EXPORT uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t* p, uint##bits##_t v, int) {     \
    uint##bits##_t old = load(p, __ATOMIC_RELAXED, PLACE);                                                           \
    store<uint##bits##_t>(p, old + v, __ATOMIC_RELAXED, PLACE);                                                      \
    return old;                                                                                                      \
  }                                                                                                                  \
  SIM_EXPORT int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected, \
                                                               uint##bits##_t v, int, int) {                         \
    uint##bits##_t old = load(p, __ATOMIC_RELAXED, PLACE);                                                           \
    bool equal = old == *expected;                                                                                   \
    if (equal) store(p, v, __ATOMIC_RELAXED, PLACE);                                                                 \
    else *expected = old;                                                                                            \
    return equal;                                                                                                    \
  }
ATOMICS(32)
ATOMICS(64)

SIM_EXPORT void __tsan_atomic_thread_fence(int) {
  if (sim::watch.check) sim::checker::fence();
}
