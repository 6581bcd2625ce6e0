#pragma once
#include <check.h>

Suite *sampler_suite(void);
Suite *stop_suite(void);
Suite *pace_suite(void);
Suite *engine_suite(void);
Suite *engine_life_suite(void);
Suite *engine_load_suite(void);
