#!/bin/sh
# Removes from a virtual environment what no training touches: prune-packages.sh VENV
#
# The packages' own tests; of Spark, the state store of streaming, Spark Connect, Hive with its
# metastore, and the examples; of Arrow, Flight and what only compilers need. The jar that stays of
# Hive, hive-storage-api, is needed to read ORC.
set -eu
cd "$1"/lib/python3*/site-packages

find . -type d -name tests -prune -exec rm -r {} +

cd pyspark
rm -r examples data
cd jars
rm rocksdbjni-*.jar spark-connect*.jar spark-hive*.jar derby-*.jar datanucleus-*.jar
rm -rf connect-repl
find . -name 'hive-*.jar' ! -name 'hive-storage-api-*' -delete

cd ../../pyarrow
rm libarrow_flight.so.* libarrow_python_flight.so* _flight.*.so flight.py
rm -r include src
