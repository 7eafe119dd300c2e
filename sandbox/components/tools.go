//go:build tools

// Names the programs that are built from this module as they are, so that go.mod pins them too.
package main

import _ "helm.sh/helm/v3/cmd/helm"
