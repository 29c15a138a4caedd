// SPDX-License-Identifier: Apache-2.0

package agents

// soPINKey is the key of the security officer's PIN in its Secret, and the file of
// it for the agent.
const soPINKey = "so-pin"

// SOPINSecret is the Secret of an agent that holds the PIN of its token's security
// officer until a person has taken it to a safe.
func SOPINSecret(agent string) string { return agent + "-so-pin" }
