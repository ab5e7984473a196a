// flowbinding-testbed is a whole Kubernetes control plane, its client and a
// node, in one binary: for tests and demos on machines that have neither a
// container runtime nor prebuilt Kubernetes programs, but a Go toolchain.
//
// The component is the name the binary is called by (a symbolic link named
// kubectl is kubectl), or else the first argument.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics, as in the separate programs
	_ "k8s.io/component-base/metrics/prometheus/version"

	"flowbinding.io/testbed/controlplane/internal/node"
)

// components are run with os.Args[0] being their own name and the flags after
// it, as if each was a program of its own. They return the exit code.
var components = map[string]func() int{
	"etcd": func() int {
		etcdmain.Main(os.Args)
		return 0
	},
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl": func() int {
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err) // prints as kubectl does, and exits
			return 1
		}
		return 0
	},
	"node": func() int { return node.Main(os.Args[1:]) },
	"version": func() int {
		fmt.Println(version.Get().GitVersion)
		return 0
	},
}

func main() {
	name := filepath.Base(os.Args[0])
	component, ok := components[name]
	if !ok && len(os.Args) > 1 {
		name = os.Args[1]
		component, ok = components[name]
		os.Args = append([]string{name}, os.Args[2:]...)
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "usage: flowbinding-testbed COMPONENT [flags]\ncomponents: %s\n", strings.Join(names(), ", "))
		os.Exit(2)
	}
	os.Exit(component())
}

func names() []string {
	list := make([]string, 0, len(components))
	for name := range components {
		list = append(list, name)
	}
	sort.Strings(list)
	return list
}
