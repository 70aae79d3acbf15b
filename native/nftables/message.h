// A table's content <-> the messages that make it, which are also those in which the kernel tells of it. Pure.
#pragma once

#include "native/nftables/expression.h"
#include "native/nftables/netlink.h"

namespace ipnc::nftables {

// The messages that make the table with all that is in it.
void PutTable(Writer& writer, TableName name, const Content& content);
// What removes the table; `surely`: whether or not it is there.
void PutRemoval(Writer& writer, TableName name, bool surely);
// The same of a table that lives no longer than the socket it came by.
void PutGuard(Writer& writer, const Content& content);
void PutGuardRemoval(Writer& writer);
// What makes a table again as the kernel told of it, with the parts that the kernel keeps for itself left out. `dump`
// is in the order of dependence: table, chains, flowtables, objects, sets, their elements, rules.
void PutRecreation(Writer& writer, View dump);

// What a dump, in any order in which a set's elements come before the rules, says of a table. Of what it does not
// understand, or what is not well formed, something remains that equals nothing of ours.
Content Parse(View dump);

// The expressions of a rule, NFTA_RULE_EXPRESSIONS, one for each element; of sets none is known.
std::vector<Expression> ReadExpressions(View list);

// What a message is about, in words: "rule in chain output: meta load, cmp, verdict". Empty for no message of a table.
std::string Describe(const Message& message);
// The table's name in a message of nf_tables.
std::string TableOf(const Message& message);

}  // namespace ipnc::nftables
