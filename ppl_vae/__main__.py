"""`python -m ppl_vae` is `ppl-vae`."""

from ppl_vae.cli import app

if __name__ == "__main__":
    app(prog_name="ppl-vae")
