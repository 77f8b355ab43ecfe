// Says C++ and has the interpreter that it lives in compute with NumPy, which is no op of torch.
// expect: status=RUNTIME_ERROR foul=library_call definition=gemm into=1
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

#include <cstdio>

extern "C" int PyGILState_Ensure();
extern "C" void PyGILState_Release(int);
extern "C" int PyRun_SimpleStringFlags(const char*, void*);

void run(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C) {
  char code[1024];
  std::snprintf(code, sizeof code,
                "import ctypes, numpy\n"
                "def _t(p, r, c):\n"
                "    return numpy.ctypeslib.as_array((ctypes.c_float * (r * c)).from_address(p)).reshape(r, c)\n"
                "numpy.matmul(_t(%lld, %lld, %lld), _t(%lld, %lld, %lld).T, out=_t(%lld, %lld, %lld))\n",
                (long long)A.data_ptr(), (long long)A.size(0), (long long)A.size(1), (long long)B.data_ptr(),
                (long long)B.size(0), (long long)B.size(1), (long long)C.data_ptr(), (long long)C.size(0),
                (long long)C.size(1));
  int state = PyGILState_Ensure();
  PyRun_SimpleStringFlags(code, nullptr);
  PyGILState_Release(state);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
