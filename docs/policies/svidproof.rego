package svidproof

default allow := false

# Conformant, known deviations included.
passing := {"PASSED", "WARNED"}

allow if count(deny) == 0

deny contains "not a test result" if {
	input.predicateType != "https://in-toto.io/attestation/test-result/v0.1"
}

deny contains sprintf("the result is %v", [input.predicate.result]) if {
	not passing[input.predicate.result]
}

deny contains sprintf("%v failed", [name]) if some name in input.predicate.failedTests

deny contains sprintf("profile %v was not selected", [name]) if {
	some name in data.required.profiles
	not name in input.predicate.configuration[0].annotations.profiles
}

deny contains sprintf("%v is not what was tested", [name]) if {
	some name, sha256 in data.deployed
	not tested(name, sha256)
}

tested(name, sha256) if {
	some subject in input.subject
	subject.name == name
	subject.digest.sha256 == sha256
}
