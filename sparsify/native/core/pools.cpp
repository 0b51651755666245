// The threads of the OpenMP runtime that is in the process, if any: torch has brought one along.
#include "sparsify.h"

namespace {

// GOMP_parallel(function, data, number of threads, flags), as GCC's and Clang's runtimes export it.
using GompParallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

struct Region {
  sparsify_task task;
  void *context;
  int64_t tasks;
  int64_t next;
};

void take_tasks(void *data) {
  Region *region = static_cast<Region *>(data);
  for (;;) {
    const int64_t index = __atomic_fetch_add(&region->next, 1, __ATOMIC_RELAXED);
    if (index >= region->tasks) return;
    region->task(region->context, index);
  }
}

}  // namespace

void sparsify_openmp(void *pool, sparsify_task task, void *context, int64_t tasks) {
  Region region = {task, context, tasks, 0};
  reinterpret_cast<GompParallel>(pool)(take_tasks, &region, unsigned(tasks), 0);
}
