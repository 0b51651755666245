/* Runs an exported layer in ONNX Runtime from C, with the native operators.
 *
 *   cc -Isparsify/native/ort examples/onnx_native.c -o onnx_native -ldl
 *   ./onnx_native libonnxruntime.so libsparsify.so layer.onnx 64 64
 *
 * The second argument is what `sparsify.onnx.library_path()` returns; the numbers are the features
 * of the input and of the output. With ONNX Runtime's own onnxruntime_c_api.h the calls are the
 * same; abi.h is the part of it that this project uses. What is ours is one call:
 * RegisterCustomOpsLibrary_V2.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "abi.h"

static const OrtApi *ort;

/* Ends the program if a call failed. */
static void check(OrtStatus *status) {
  if (!status) return;
  fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  ort->ReleaseStatus(status);
  exit(1);
}

static void *load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library) return library;
  fprintf(stderr, "%s\n", dlerror());
  exit(1);
}

/* A function of a library; C has no cast from data to functions. */
static void *find(void *library, const char *name, void *function, size_t size) {
  void *address = dlsym(library, name);
  if (!address) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  char *to = function, *from = (char *)&address;
  while (size--) *to++ = *from++;
  return function;
}

int main(int count, char **arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: onnx_native RUNTIME LIBRARY MODEL INPUTS OUTPUTS\n");
    return 2;
  }
  const OrtApiBase *(*OrtGetApiBase)(void);
  int64_t (*sparsify_ort_calls)(void);
  find(load(arguments[1]), "OrtGetApiBase", &OrtGetApiBase, sizeof OrtGetApiBase);
  find(load(arguments[2]), "sparsify_ort_calls", &sparsify_ort_calls, sizeof sparsify_ort_calls);
  ort = OrtGetApiBase()->GetApi(ORT_TABLE_VERSION);
  if (!ort) {
    fprintf(stderr, "ONNX Runtime 1.17 or newer is needed.\n");
    return 1;
  }

  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  check(ort->CreateEnv(3, "example", &env));
  check(ort->CreateSessionOptions(&options));
  check(ort->RegisterCustomOpsLibrary_V2(options, arguments[2]));
  check(ort->CreateSession(env, arguments[3], options, &session));

  const int64_t inputs = atoll(arguments[4]), outputs = atoll(arguments[5]);
  if (inputs < 1) {
    fprintf(stderr, "INPUTS must be a number of 1 or more.\n");
    return 2;
  }
  const int64_t dims[2] = {1, inputs};
  float *data = malloc(sizeof(float) * inputs), *result;
  for (int64_t i = 0; i < inputs; i++) data[i] = inputs > 1 ? 2.0f * i / (inputs - 1) - 1 : -1;

  OrtMemoryInfo *memory;
  OrtValue *x, *y = NULL;
  const char *const input_names[] = {"x"}, *const output_names[] = {"output"};
  check(ort->CreateCpuMemoryInfo(ORT_DEVICE_ALLOCATOR, ORT_DEFAULT_MEMORY, &memory));
  check(ort->CreateTensorWithDataAsOrtValue(memory, data, sizeof(float) * inputs, dims, 2,
                                            ORT_FLOAT, &x));
  check(ort->Run(session, NULL, input_names, (const OrtValue *const *)&x, 1, output_names, 1, &y));
  check(ort->GetTensorMutableData(y, (void **)&result));
  OrtShape *shape;
  int64_t sizes[2] = {0, 0};
  check(ort->GetTensorTypeAndShape(y, &shape));
  check(ort->GetDimensions(shape, sizes, 2));
  ort->ReleaseShape(shape);
  if (sizes[0] != 1 || sizes[1] != outputs) {
    fprintf(stderr, "The model has %lld outputs.\n", (long long)sizes[1]);
    return 1;
  }

  printf("calls of our operators: %lld\n", (long long)sparsify_ort_calls());
  for (int64_t i = 0; i < outputs; i++) printf("%g ", result[i]);
  printf("\n");

  ort->ReleaseValue(y);
  ort->ReleaseValue(x);
  ort->ReleaseMemoryInfo(memory);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(env);
  free(data);
  return 0;
}
