"""The runtimes' images and what they are made of; knows no function."""
