"""Skeletons, codecs and drawing; numpy only, because they ship in the Lambda function."""
