// EXPECT_ERROR(statement, DataError, "fragment", ...): the statement throws exactly that class, and the message holds
// every fragment (the place, the values).
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <typeinfo>

#include "base/error.h"

#define EXPECT_ERROR(statement, ErrorType, ...)                                             \
  do {                                                                                      \
    try {                                                                                   \
      statement;                                                                            \
      ADD_FAILURE() << #statement " did not throw";                                         \
    } catch (const ::rankwise::Error& caught) {                                             \
      EXPECT_STREQ(typeid(caught).name(), typeid(ErrorType).name()) << caught.what();       \
      for (const std::string& fragment : std::initializer_list<std::string>{__VA_ARGS__}) { \
        EXPECT_NE(std::string_view(caught.what()).find(fragment), std::string_view::npos)   \
            << "no \"" << fragment << "\" in: " << caught.what();                           \
      }                                                                                     \
    }                                                                                       \
  } while (false)
