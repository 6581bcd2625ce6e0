#pragma once
#include <check.h>

TCase *gguf_tests(void);
TCase *safetensors_tests(void);
TCase *store_tests(void);
TCase *quantize_tests(void);
