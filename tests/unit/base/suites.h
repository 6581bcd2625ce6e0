#pragma once
#include <check.h>
TCase *json_case(void);
TCase *options_case(void);
