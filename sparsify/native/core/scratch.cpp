#include "scratch.h"

#include <pthread.h>
#include <stdlib.h>

namespace sparsify {
namespace {

constexpr int64_t PAGE = 4096;

struct Block {
  int64_t bytes;
  void *memory;
};

pthread_key_t key;
pthread_once_t once = PTHREAD_ONCE_INIT;
bool has_key = false;

void release(void *held) {
  Block *block = static_cast<Block *>(held);
  free(block->memory);
  free(block);
}

void make_key() { has_key = pthread_key_create(&key, release) == 0; }

}  // namespace

void *scratch(int64_t bytes) {
  pthread_once(&once, make_key);
  if (!has_key) return nullptr;
  Block *block = static_cast<Block *>(pthread_getspecific(key));
  if (!block) {
    block = static_cast<Block *>(calloc(1, sizeof(Block)));
    if (!block || pthread_setspecific(key, block)) return free(block), nullptr;
  }
  if (block->bytes < bytes) {
    free(block->memory);
    const int64_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    block->memory = aligned_alloc(PAGE, whole);
    block->bytes = block->memory ? whole : 0;
  }
  return block->memory;
}

}  // namespace sparsify
