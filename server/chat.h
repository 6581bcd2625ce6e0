/* Chat messages to the tokens of a prompt, through the model's chat template. Pure functions, for any thread.
 */
#pragma once
#include "openai_in.h"

/* body: messages, add_generation_prompt, continue_final_message, chat_template_kwargs, reasoning_effort,
 * add_special_tokens. Appends to ids. */
int chat_tokens(const cJSON *body, const struct api_env *env, struct vec_i32 *ids, struct err *e);
