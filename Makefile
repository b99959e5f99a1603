.PHONY: demo image image-cpu test requirements docs

demo:  # the whole way on this machine: train, serve, a picture of what was found
	bash local_test/demo.sh

image:  # the container image, as tilewise
	docker build -t tilewise --build-arg REVISION=$$(git rev-parse HEAD) .

image-cpu:  # the one for endpoints without a GPU, as tilewise-cpu
	docker build -t tilewise-cpu --target cpu --build-arg REVISION=$$(git rev-parse HEAD) .

test:  # everything that must pass
	bash tests/run.sh

requirements:  # pin anew what pyproject.toml asks for
	uv pip compile --quiet --no-header --upgrade --python-version 3.11 pyproject.toml -o requirements.txt
	uv pip compile --quiet --no-header --upgrade --python-version 3.11 --group serving -c requirements.txt -o serving_requirements.txt
	uv pip compile --quiet --no-header --upgrade --python-version 3.11 pyproject.toml --extra test -c requirements.txt -o tests/requirements.txt
	printf 'sagemaker<3\npillow\n' | uv pip compile --quiet --no-header --no-annotate --upgrade --python-version 3.11 - -o tests/image/sdk_requirements.txt
	printf 'sagemaker>=3\npillow\n' | uv pip compile --quiet --no-header --no-annotate --upgrade --python-version 3.11 - -o tests/image/sdk3_requirements.txt

docs:  # generate what is generated
	PYTHONPATH=container .venv/bin/python -m tilewise hyperparameters > docs/hyperparameters.md
	.venv/bin/python benchmarks/models_table.py docs/models.md
