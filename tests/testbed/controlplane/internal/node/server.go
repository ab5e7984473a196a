package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/mux"
	vkapi "github.com/virtual-kubelet/virtual-kubelet/node/api"
	"k8s.io/klog/v2"
)

// idleTimeout is the kubelet's own for exec and port-forward streams.
const idleTimeout = 4 * time.Hour

// serve starts the kubelet API.
func serve(o *Options, a *api) (*http.Server, error) {
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, err
	}
	router := mux.NewRouter()
	router.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", a.serveLogs).Methods(http.MethodGet)
	router.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	router.PathPrefix("/").Handler(vkapi.PodHandler(vkapi.PodHandlerConfig{
		RunInContainer:        a.exec,
		PortForward:           a.portForward,
		GetPods:               a.list,
		GetPodsFromKubernetes: a.list,
		StreamIdleTimeout:     idleTimeout,
		StreamCreationTimeout: 30 * time.Second,
	}, true))
	server := &http.Server{Handler: router, TLSConfig: config, ReadHeaderTimeout: 30 * time.Second}
	go func() {
		if err := server.Serve(tls.NewListener(listener, config)); err != http.ErrServerClosed {
			klog.Errorf("kubelet API: %v", err)
		}
	}()
	return server, nil
}

func tlsConfig(o *Options) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey)
	if err != nil {
		return nil, err
	}
	// Streams are upgraded HTTP/1.1 connections.
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	if o.ClientCA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(o.ClientCA)
	if err != nil {
		return nil, err
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--client-ca %s: no certificate in it", o.ClientCA)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}
