// Memory that frees itself: what std::vector would do, without the C++ runtime.
#pragma once

#include <stdint.h>
#include <stdlib.h>

namespace sparsify {

template <class T>
class Array {
 public:
  Array() = default;
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;
  ~Array() { free(items_); }

  // Makes room for `count` items, all zero. False where memory is short.
  bool resize(int64_t count) {
    free(items_);
    items_ = static_cast<T *>(calloc(count > 0 ? count : 1, sizeof(T)));
    count_ = items_ ? count : 0;
    return items_ != nullptr;
  }

  // Forgets the items from `count` on.
  void truncate(int64_t count) { count_ = count; }

  void swap(Array &other) {
    T *items = items_;
    int64_t count = count_;
    items_ = other.items_, count_ = other.count_;
    other.items_ = items, other.count_ = count;
  }

  // Gives the items away; the caller frees them.
  T *release() {
    T *items = items_;
    items_ = nullptr, count_ = 0;
    return items;
  }

  T *data() { return items_; }
  const T *data() const { return items_; }
  int64_t size() const { return count_; }
  T &operator[](int64_t place) { return items_[place]; }
  const T &operator[](int64_t place) const { return items_[place]; }

 private:
  T *items_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace sparsify
