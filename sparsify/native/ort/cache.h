// The compiled fabric of a node whose indices are computed in the graph at every run.
#pragma once

#include <pthread.h>
#include <string.h>

#include "../core/array.h"
#include "sparsify.h"

namespace sparsify {

// A fabric, and how many hold it: the cache and the runs that are under way.
struct Compiled {
  sparsify_fabric *fabric;
  Array<int64_t> indices;
  int64_t holders;
};

inline void release(Compiled *compiled) {
  if (!compiled || __atomic_sub_fetch(&compiled->holders, 1, __ATOMIC_ACQ_REL)) return;
  sparsify_destroy(compiled->fabric);
  compiled->~Compiled();
  free(compiled);
}

class FabricCache {
 public:
  ~FabricCache() { release(latest_); }

  // The fabric for these indices, compiled where they are not those of the last call. The caller
  // releases it. Returns what is wrong, or null.
  const char *get(const Array<int64_t> &description, const int64_t *indices, int64_t count,
                  Compiled **found) {
    pthread_mutex_lock(&mutex_);
    const char *wrong = is_latest(indices, count) ? nullptr : renew(description, indices, count);
    *found = wrong ? nullptr : latest_;
    if (*found) __atomic_add_fetch(&latest_->holders, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&mutex_);
    return wrong;
  }

 private:
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  Compiled *latest_ = nullptr;

  bool is_latest(const int64_t *indices, int64_t count) const {
    return latest_ && latest_->indices.size() == count &&
           !memcmp(latest_->indices.data(), indices, size_t(count) * sizeof(int64_t));
  }

  const char *renew(const Array<int64_t> &description, const int64_t *indices, int64_t count) {
    Array<Compiled> made;
    if (!made.resize(1) || !made[0].indices.resize(count))
      return "There is not enough memory for the indices.";
    if (count) memcpy(made[0].indices.data(), indices, size_t(count) * sizeof(int64_t));
    const char *wrong = sparsify_create(description.data(), description.size(), indices, count,
                                        &made[0].fabric);
    if (wrong) {
      made[0].~Compiled();
      return wrong;
    }
    made[0].holders = 1;
    release(latest_);
    latest_ = made.release();
    return nullptr;
  }
};

}  // namespace sparsify
